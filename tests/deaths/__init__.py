"""What dies, and what is left afterwards: the service with a real Ray, and a death in the midst of it."""
