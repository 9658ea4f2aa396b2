"""The claims of the symplectic adjoint paper, drawn again at a reduced size (`make paper`).

T. Matsubara, Y. Miyatake and T. Yaguchi, Symplectic Adjoint Method for Exact Gradient of Neural ODE with Minimal
Memory, NeurIPS 2021 (arXiv 2102.09750). Everything here uses `symadj_core` alone, and no data set:

    methods     the gradients and what each must hold, in one formula
    memory      peaks of live tensors against steps N and blocks M, their slopes beside that formula's
    exactness   distance from backprop's gradient over tolerances, solvers, blocks; rounding; training at a tolerance
    pde         Korteweg-de Vries and Cahn-Hilliard, by a reference scheme of order 2
    dynamics    a field that is a matrix times the gradient of a learnt energy, learnt from snapshots
    sizes       how much of it is done
    page        docs/paper.md and its plots
"""
