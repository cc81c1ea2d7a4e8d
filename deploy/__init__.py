"""How the system runs: private local servers, the supervisor behind `./dev`, and images."""
