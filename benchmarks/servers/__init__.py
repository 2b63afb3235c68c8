"""Servers under wrk: the applications (apps.py), their process (serve.py), the load (wrk.py)."""
