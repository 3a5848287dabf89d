# The host's side of the prologue: finds the owner's program, or receives it, and becomes it.
#
# A reader such as `head` may take more from a pipe than it returns. So the owner sends nothing behind a file until it
# has an answer.
#
# The owner sends this text as one line: comments and line breaks are taken out, so each command ends with `;`. A POSIX
# shell reads it, not the user's. Then the owner sends two lines: the program's hash, and how the program is started
# ("$@" is the program). The answers begin with a mark, since a login may print anything before.
#
#   have                      the program starts: the node's messages follow
#   need OS MACHINE PACKING   the owner answers with a file: a line COUNT SIZE HASH, and COUNT bytes
#   libraries WHY             it does not start here with this system's libraries. The owner sends a line NAME HASH for
#                             each of its own, answered by `have`, or by `need` and then `got`; the line `.` is the last
#   fail WHY                  nothing follows

umask 077;
mark="yue-$1";
read -r hash && read -r start || exit 1;
bin="${XDG_CACHE_HOME:-$HOME/.cache}/yue/bin";
program="$bin/$hash";
folder="$program.d";

run() { echo "$mark have"; eval "$start"; exit; };
fail() { echo "$mark fail" $*; exit 1; };

[ -x "$program" ] && run "$program";
[ -x "$folder/yue" ] && run "$folder/ld.so" --library-path "$folder" "$folder/yue";

# Files have another name until they are complete. Older ones are left from transfers that were killed.
part="$program.$$.part";
made="$folder.$$.part";
trap "rm -rf \"\$part\" \"\$made\"" EXIT;
mkdir -p "$bin" || fail "cannot make the folder $bin";
find "$bin" -maxdepth 1 -name "*.part" -mmin +60 -exec rm -rf {} + 2>/dev/null;

unpack=cat;
command -v gunzip >/dev/null 2>&1 && unpack=gunzip;

# Receives a file, and checks it as well as this system can.
receive() {
    read -r count size sum || exit 1;
    head -c "$count" | $unpack >"$part" || fail "cannot write to $bin";
    [ "$(wc -c <"$part")" -eq "$size" ] || fail "a file arrived incomplete in $bin";
    if command -v sha256sum >/dev/null 2>&1; then
        set -- $(sha256sum <"$part");
        [ "$1" = "$sum" ] || fail "a file arrived damaged in $bin";
    fi;
    chmod 700 "$part" || fail "cannot make a file in $bin executable";
};

echo "$mark need $(uname -s) $(uname -m) $unpack";
receive;
if why="$("$part" --version </dev/null 2>&1)"; then
    mv -f "$part" "$program" || fail "cannot write to $bin";
    run "$program";
fi;

mkdir "$made" && mv "$part" "$made/yue" || fail "cannot write to $bin";
echo "$mark libraries" $why;
name=;
while read -r name sum && [ "$name" != . ]; do
    file="$bin/$sum";
    if [ -x "$file" ]; then
        echo "$mark have";
    else
        echo "$mark need";
        receive;
        mv -f "$part" "$file" || fail "cannot write to $bin";
        echo "$mark got";
    fi;
    ln -s "$file" "$made/$name" || fail "cannot write to $bin";
done;
[ "$name" = . ] || exit 1;
why="$("$made/ld.so" --library-path "$made" "$made/yue" --version </dev/null 2>&1)" ||
    fail "the program does not start there: $why";
[ -d "$folder" ] || mv "$made" "$folder" || fail "cannot write to $bin";
run "$folder/ld.so" --library-path "$folder" "$folder/yue";
