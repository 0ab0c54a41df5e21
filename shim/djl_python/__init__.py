"""Give model directories DJL Serving's Python classes where DJL Serving is not.

The names, signatures and bytes are DJL's (DJL Serving, engines/python, `djl_python`); the code is this distribution's.
"""

from djl_python.inputs import Input
from djl_python.outputs import Output
from djl_python.pair_list import PairList
from djl_python.session_manager import SessionManager, get_session_manager

__all__ = ["Input", "Output", "PairList", "SessionManager", "get_session_manager"]
