"""What profiles, students and language models in the loop cost: a pure model of declared rates."""
