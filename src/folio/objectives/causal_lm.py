"""TODO folio.objectives.causal_lm."""

from folio.objectives.objective import Objective


class CausalLM(Objective):
    """Every token from those before it."""
