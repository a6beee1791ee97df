"""Planted mistakes in hand-derived VJPs, JVPs and Hessian-vector products."""
