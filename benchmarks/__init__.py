"""What symadj claims about time and memory, measured beside its peers in the same run. Tables, never assertions."""
