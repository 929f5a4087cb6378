"""The capacity workload: how many workers keep waits under a target?"""
