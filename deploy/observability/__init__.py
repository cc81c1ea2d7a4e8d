"""How the system is watched: a span collector for this machine, Prometheus' rules, Alertmanager's routes,
Grafana's dashboards, and the programs of Prometheus that check them.
"""
