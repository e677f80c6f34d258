"""Writers of text behind one small interface (``profiles.llm.base.Backend``)."""

from profiles.llm.base import Backend, Reply, Request
from profiles.registry import Registry

BACKENDS: Registry[type[Backend]] = Registry(
    "LLM back-end",
    {
        "template": "profiles.llm.template:TemplateBackend",
        "local": "profiles.llm.local:LocalBackend",
        "openai": "profiles.llm.openai_api:OpenAIBackend",
        "batch-file": "profiles.llm.batch_file:BatchFileBackend",
    },
)

__all__ = ["BACKENDS", "Backend", "Reply", "Request"]
