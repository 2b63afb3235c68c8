"""The rows of the comparison. Modules register theirs when imported: in the order of the table."""

from importlib import import_module

from rows.registry import ROWS, Row, Spent, choose

for _name in "scheduling tasks transports tls streams traffic processes more".split():
    import_module(f"rows.{_name}")

__all__ = ["ROWS", "Row", "Spent", "choose"]
