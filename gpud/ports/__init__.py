"""What the loops need from the world. Adapters implement these; tests have fakes of them.

Every method may be cancelled, has a time limit of its own, and translates its library's errors
into `gpud.errors`. Methods that change the world are safe to repeat.
"""
