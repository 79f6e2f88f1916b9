"""Files and folders that are whole or not there, and that tell when they have changed."""
