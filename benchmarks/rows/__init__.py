"""The rows of the comparison. Modules register theirs when imported: in the order of the table."""

from importlib import import_module

from rows.registry import ROWS, Grown, Row, Spent, choose

for _name in "scheduling tasks transports tls streams traffic processes servers scale more".split():
    import_module(f"rows.{_name}")

__all__ = ["ROWS", "Grown", "Row", "Spent", "choose"]
