"""P5 / OpenP5: a sequence-to-sequence model that writes the id of the next item (no retriever, no
candidates).

``indexing.py`` names items, ``words.py`` turns text into tokens, ``trie.py`` holds all ids, ``beam.py``
searches in it, ``model.py`` is the T5 with whole-word embeddings, ``system.py`` trains and scores. Defaults:
``properties/model/P5.yaml``.
"""
