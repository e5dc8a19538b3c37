"""Every option once: type, default, range and help. The command line and Python read the same models.

Add an option as one field of its command's model; `cli.py` turns the fields into command line options by itself.
"""

from whycam.config.base import MAX_CLASSES, OVERWRITE, ClusterOptions, Device, Engine, ModelOptions, Options
from whycam.config.explain import ExplainOptions, InspectOptions, LocalizeOptions, UnitsOptions
from whycam.config.measure import AuditOptions, CheckOptions, CompareOptions, EvaluateOptions, GuardOptions
from whycam.config.ship import CardOptions, EditsOptions, ExportOptions, ReportOptions, ServeOptions
from whycam.config.train import RECIPES, Head, TrainOptions, make_train_options

__all__ = [
    "MAX_CLASSES",
    "OVERWRITE",
    "RECIPES",
    "AuditOptions",
    "CardOptions",
    "CheckOptions",
    "ClusterOptions",
    "CompareOptions",
    "Device",
    "EditsOptions",
    "Engine",
    "EvaluateOptions",
    "ExplainOptions",
    "ExportOptions",
    "GuardOptions",
    "Head",
    "InspectOptions",
    "LocalizeOptions",
    "ModelOptions",
    "Options",
    "ReportOptions",
    "ServeOptions",
    "TrainOptions",
    "UnitsOptions",
    "make_train_options",
]
