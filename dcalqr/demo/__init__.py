"""`dcalqr demo`: the real daemon at work between a small Kafka and a small dCache, with faults, and every file checked.

========== ===========================================================================================
`scenario` what is uploaded, when, and what goes wrong with it
`broker`   Kafka: embedded (librdkafka's mock cluster), or a real one
`storage`  the dCache: uploads, their messages, and the truth about each file
`child`    `dcalqr run` as a process, and its log
`story`    what a person is told meanwhile
`verdict`  what is checked at the end
`show`     the whole demo
========== ===========================================================================================
"""
