"""Sites: how an organisation's installation joins, proves who it is, and learns what to do."""
