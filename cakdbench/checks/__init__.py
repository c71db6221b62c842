"""`cakdbench check`: a trial of a method's contract on small models, before hours are spent on it."""

from cakdbench.checks.check import Finding, check_method, findings_table

__all__ = ["Finding", "check_method", "findings_table"]
