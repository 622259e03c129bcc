# fish completion of preflight: preflight completion fish | source
function __preflight_complete
    set -l words (commandline -opc) (commandline -ct)
    command $words[1] complete -- $words[2..] 2>/dev/null
end
function __preflight_found
    test (count (__preflight_complete)) -gt 0
end
complete -c preflight -n __preflight_found -f -a '(__preflight_complete)'
