"""Forecast an epoch before training: padding, batches, the largest batch and its memory."""

from pipeline.forecast.forecast import Forecast as Forecast
from pipeline.forecast.forecast import plan as plan
from pipeline.forecast.histogram import Histogram as Histogram
from pipeline.forecast.memory import Memory as Memory
from pipeline.forecast.plan_report import PlanReport as PlanReport
from pipeline.forecast.policies import suggest_policies as suggest_policies
from pipeline.forecast.policy_forecast import PolicyForecast as PolicyForecast

__all__ = [
    "Forecast",
    "Histogram",
    "Memory",
    "PlanReport",
    "PolicyForecast",
    "plan",
    "suggest_policies",
]
