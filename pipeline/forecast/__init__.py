"""What an epoch will be like, before it is trained: padding, batches, the largest of them, and its memory."""

from pipeline.forecast.audit import PlanReport as PlanReport
from pipeline.forecast.compared import compared as compared
from pipeline.forecast.forecast import Forecast as Forecast
from pipeline.forecast.histogram import Histogram as Histogram
from pipeline.forecast.memory import Memory as Memory
from pipeline.forecast.outlook import PolicyForecast as PolicyForecast
from pipeline.forecast.planning import plan as plan
