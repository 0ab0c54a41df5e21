"""Test formatters, custom handlers and clients without a model: an engine that plays a script. See docs/testing.md."""

from lmi_chat.dialects.formatters import Formatters
from lmi_chat.job import Delta, Finish, Finished, Job
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.testing.app import Application, application, deployment, model_directory
from lmi_chat.testing.engine import (
    Part,
    Playing,
    Script,
    ScriptedEngine,
    Step,
    called,
    embedded,
    reasoned,
    said,
    token,
)
from lmi_chat.testing.tokenizer import END, END_ID, TURNS, VOCABULARY_TOKENS, ByteTokenizer

__all__ = [
    "END",
    "END_ID",
    "TURNS",
    "VOCABULARY_TOKENS",
    "Application",
    "ByteTokenizer",
    "Delta",
    "Finish",
    "Finished",
    "Formatters",
    "Job",
    "Part",
    "PipelineConfig",
    "Playing",
    "Script",
    "ScriptedEngine",
    "Step",
    "application",
    "called",
    "deployment",
    "embedded",
    "model_directory",
    "reasoned",
    "said",
    "token",
]
