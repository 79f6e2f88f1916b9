"""Files and folders that are either complete or absent, and that show whether they have been changed."""
