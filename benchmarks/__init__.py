"""Speed and quality against RecBole and RecTools; each script explains itself with ``--help``."""
