"""The whole product at work on one machine: a coordinator, three organisations, real images, real processes."""
