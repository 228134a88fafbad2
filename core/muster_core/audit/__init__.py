"""What was done, by whom, in a form that shows when it was changed afterwards."""
