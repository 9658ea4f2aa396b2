"""Explicit Runge-Kutta solvers: tableaus, steps, step-size control and the time loop."""
