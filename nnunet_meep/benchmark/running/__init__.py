"""Run the steps of a plan, and remember what is done."""
