"""What people look at: tables, figures, maps, a page. Imports without torch."""
