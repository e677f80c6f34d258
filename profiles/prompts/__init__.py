"""Prompts: versioned YAML files, one per kind and one per domain.

A kind says what is asked (``kinds/*.yaml``, Jinja inside), a domain says it in the words of a
catalogue (``domains/*.yaml``). Any kind works in any domain; a file ``kinds/<kind>.<domain>.yaml``
replaces the general one where a domain needs its own. Version and hash of both go into every record.
"""

from profiles.prompts.domain import DOMAINS, Domain, domain_for, load_domain
from profiles.prompts.kind import KINDS, Prompt, load_prompt

__all__ = ["DOMAINS", "KINDS", "Domain", "Prompt", "domain_for", "load_domain", "load_prompt"]
