"""The control loop with a real clock: control, perception and policy, recorder and simulator as processes."""
