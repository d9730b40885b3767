"""Box arithmetic over the array API: numpy at run time and torch in training share it."""
