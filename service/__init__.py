"""The life of a job: spec, states, store, dispatcher."""
