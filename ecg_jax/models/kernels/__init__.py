"""Operations written by hand where XLA's own are slow.

Each file states what XLA does badly, and on which platforms it is used: on two
CPU cores as measured with jaxlib 0.10.2, on a GPU as read off the programs that
JAX 0.11.2 compiles for an H100 (`tools/compile_for_gpu.py`).
"""
