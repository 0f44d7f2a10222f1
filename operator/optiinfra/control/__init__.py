"""Where everything meets: the queue, the round, leadership, history, actions. The only place that sees all layers."""
