"""The job as data: nodes, and the plan that cuts them into stages."""
