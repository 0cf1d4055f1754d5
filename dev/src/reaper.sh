# Reads a pipe until the process that holds its other end has ended in any way, and then ends what that process has left
# behind. A line `+SIGNAL TARGET` or `+remove FOLDER` adds a charge to the list; the same line with `-` takes it off,
# because the process has seen to it.
trap '' HUP INT QUIT TERM
charges=
while IFS= read -r line; do
    case $line in
    # The newest charge comes first: clients end before their server, and a server ends before its folder is removed.
    +*) charges=$(printf '%s\n%s' "${line#+}" "$charges") ;;
    -*) charges=$(printf '%s' "$charges" | grep -vxF -e "${line#-}") ;;
    esac
done

# A process that has ended but was not waited for (a zombie) still gets signals, so it counts as ended here.
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
