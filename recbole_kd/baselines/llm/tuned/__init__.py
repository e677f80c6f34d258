"""Language models that are tuned: TALLRec and LlamaRec (LoRA), and the loop that P5 trains in as well.

``loop.py`` trains anything in units that a kill cannot lose, ``checkpoint.py`` keeps them, ``lm.py`` loads a
causal model with adapters and reads its answer logits; ``tallrec.py`` and ``llamarec.py`` are prompts,
examples, losses and scores. Defaults: ``properties/ranker/tallrec.yaml`` and ``llamarec.yaml``.
"""
