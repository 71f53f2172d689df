# Keeps one server, and ends it when whoever holds the other end of our standard input is gone.
#
# usage: sh -c "$(cat keeper.sh)" keeper SIGNAL FOLDER PROGRAM ARGUMENTS...
#   SIGNAL  how to end the server when we are left alone
#   FOLDER  removed then; empty: nothing is removed
#
# Prints the server's process id. Ends when the server ends, with its status.

signal=$1 folder=$2
shift 2

# Background jobs get /dev/null as standard input; the pipe lives on as 3, and only here.
exec 3<&0 </dev/null
"$@" 1>&2 3<&- &
server=$!
echo "$server"
exec 1>&2

{
    # Nothing is ever written to the pipe: this returns when its last writer is gone.
    read -r _ <&3
    # From here on the end of the server must not end this job before the clean-up below hears of it.
    trap '' TERM
    tree="$server $(cat "/proc/$server/task/$server/children" 2>&-)"
    # A stopped process (SIGSTOP) would not see anything but SIGKILL.
    kill -CONT $tree 2>&-
    kill "-$signal" "$server" 2>&-
    tenths=0
    while kill -0 "$server" 2>&-; do
        sleep 0.1
        tenths=$((tenths + 1))
        # Safe for PostgreSQL: it replays its log at the next start.
        [ "$tenths" -eq 12 ] && kill -QUIT "$server" 2>&-
        [ "$tenths" -ge 16 ] && kill -KILL $tree 2>&-
    done
    exit 0
} &
watch=$!

wait "$server"
status=$?
kill "$watch" 2>&-
# Only a watch that was left alone ends with 0; after an ordinary stop it is ended by the line above.
if wait "$watch" 2>&- && [ -n "$folder" ]; then
    cd / && rm -rf "$folder"
fi
exit "$status"
