"""
What a caller may ask the agent to do in the cluster: commands, pods' logs, proxied requests.

C{desk} takes them in, sees to limits and audit records, and says how they ended; C{processes} runs what has a
process in a pod, C{pod_logs} reads logs, C{proxied} hands on requests. Who asks is an C{Asker} (C{asking}),
whichever way it asks by: C{messages} has the messages of the WebSocket, C{http} the paths C{/api/commands}
and C{/api/realtime/logs}.
"""
