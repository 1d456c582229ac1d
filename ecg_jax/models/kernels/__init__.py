"""Operations written by hand where XLA's own are slow.

Each file states what XLA does badly, measured on two CPU cores with jaxlib
0.10.2, and on which platforms it is used.
"""
