"""Vector fields, and the closed forms of their divergence."""
