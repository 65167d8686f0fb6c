"""The output for readers: tables, figures, maps, an HTML page. Imports without torch."""
