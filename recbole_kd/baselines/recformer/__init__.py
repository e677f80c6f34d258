"""Recformer: text is all you need (Li et al., KDD 2023, arXiv 2305.13731)."""
