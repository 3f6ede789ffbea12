"""
Command line over environment over file over defaults, into one frozen, validated L{Settings}.

L{load_settings} reads them. The classes in C{model}, C{model_pipeops} and C{model_tunnel} define
them; everything else, the documentation included, is made from those.
"""

from __future__ import annotations

from pipeops_agent.settings.changes import Changes, compare, take_live
from pipeops_agent.settings.loading import Loaded, load_settings
from pipeops_agent.settings.model import Settings
from pipeops_agent.settings.model_tunnel import Forward
from pipeops_agent.settings.problems import Origin, Problem, SettingsError
from pipeops_agent.settings.proxies import DIRECT, Proxies
from pipeops_agent.settings.report import report, way_to_control_plane

__all__ = [
    "DIRECT",
    "Changes",
    "Forward",
    "Loaded",
    "Origin",
    "Problem",
    "Proxies",
    "Settings",
    "SettingsError",
    "compare",
    "load_settings",
    "report",
    "take_live",
    "way_to_control_plane",
]
