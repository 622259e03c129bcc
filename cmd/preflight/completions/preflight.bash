# bash completion of preflight: source <(preflight completion bash)
_preflight() {
    local IFS=$'\n'
    COMPREPLY=($(command "${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f 1))
}
complete -o default -F _preflight preflight
