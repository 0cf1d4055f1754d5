# Waits at a pipe until the process that holds the other end has ended, in whatever way, and then ends what that
# process has left behind. Each line is a charge: `+SIGNAL TARGET` or `+remove FOLDER`, and the same with `-` when the
# process has seen to it itself.
trap '' HUP INT QUIT TERM
charges=
while IFS= read -r line; do
    case $line in
    # The newest comes first: clients end before their server, and a server before its folder goes.
    +*) charges=$(printf '%s\n%s' "${line#+}" "$charges") ;;
    -*) charges=$(printf '%s' "$charges" | grep -vxF -e "${line#-}") ;;
    esac
done

# Somebody has to collect a process that has ended; until then it looks as if it were there.
runs() {
    kill -s 0 -- "$1" 2>/dev/null && ! grep -qs ') Z ' "/proc/${1#-}/stat"
}

printf '%s\n' "$charges" | while IFS=' ' read -r how what; do
    case $how in
    '') ;;
    remove) rm -rf "$what" "$what.lock" ;;
    *)
        kill -s "$how" -- "$what" 2>/dev/null
        tenths=0
        while runs "$what" && [ "$tenths" -lt 300 ]; do
            sleep 0.1
            tenths=$((tenths + 1))
        done
        runs "$what" && kill -s KILL -- "$what"
        ;;
    esac
done
