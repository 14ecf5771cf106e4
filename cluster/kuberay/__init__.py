"""KubeRay objects rendered from a Plan. Pure functions: values in, plain tables out; nothing is
applied to a cluster.
"""
