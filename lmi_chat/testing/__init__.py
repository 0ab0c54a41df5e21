"""Test formatters, custom handlers and clients without a model: an engine that plays a script. See docs/testing.md."""

from lmi_chat.dialects.formatters import Formatters
from lmi_chat.job import Delta, Finish, Finished, Job
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.testing.app import Application, application, deployment, model_directory
from lmi_chat.testing.engine import Playing, Script, ScriptedEngine, Step, embedded, said, token
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
    "PipelineConfig",
    "Playing",
    "Script",
    "ScriptedEngine",
    "Step",
    "application",
    "deployment",
    "embedded",
    "model_directory",
    "said",
    "token",
]
