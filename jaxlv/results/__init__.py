"""What is measured: frozen records with their JSON, and the one registry of the quantities in them."""
