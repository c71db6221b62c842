"""The numbers that papers of the field print, with their sources, protocols and conflicts, as data."""
