/* Does under Wine what winpeshl.exe does in Windows PE: starts what [LaunchApps] in winpeshl.ini names, one after the
 * other ("Winpeshl.ini Files": the program, a comma, its options; environment variables are expanded).
 *
 * SystemRoot is X:\Windows while variables are expanded, as it is in Windows PE; Wine sets it back for every program.
 * A cmd.exe is Wine's, for the image may hold one that only Windows can run. Ends with the exit code of the last
 * program, or with 200 where winpeshl.ini starts nothing.
 */
#include <stdio.h>
#include <wchar.h>
#include <windows.h>

#define LONGEST 2048

static wchar_t *trimmed(wchar_t *text)
{
    size_t length;
    while (*text == L' ' || *text == L'\t')
        text++;
    for (length = wcslen(text); length && wcschr(L" \t\r\n", text[length - 1]); length--)
        text[length - 1] = 0;
    return text;
}

static int start(wchar_t *line)
{
    wchar_t program[LONGEST], options[LONGEST] = L"", command[2 * LONGEST], wine_cmd[LONGEST], *comma, *name;
    STARTUPINFOW startup = { sizeof startup };
    PROCESS_INFORMATION process;
    DWORD code = 201;

    if ((comma = wcschr(line, L',')) != NULL) {
        *comma = 0;
        ExpandEnvironmentStringsW(trimmed(comma + 1), options, LONGEST);
    }
    ExpandEnvironmentStringsW(trimmed(line), program, LONGEST);
    name = wcsrchr(program, L'\\');
    if (!_wcsicmp(name ? name + 1 : program, L"cmd.exe") && GetEnvironmentVariableW(L"ComSpec", wine_cmd, LONGEST))
        wcscpy(program, wine_cmd);
    swprintf(command, 2 * LONGEST, L"\"%ls\" %ls", program, options);
    if (!CreateProcessW(program, command, NULL, NULL, TRUE, 0, NULL, L"X:\\Windows\\System32", &startup, &process))
        return 201;
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    return (int)code;
}

int wmain(void)
{
    wchar_t line[LONGEST];
    int inside = 0, code = 200;
    FILE *file = _wfopen(L"X:\\Windows\\System32\\winpeshl.ini", L"r");

    SetEnvironmentVariableW(L"SystemDrive", L"X:");
    SetEnvironmentVariableW(L"SystemRoot", L"X:\\Windows");
    while (file && fgetws(line, LONGEST, file)) {
        wchar_t *text = trimmed(line);
        if (*text == L'[')
            inside = !_wcsicmp(text, L"[LaunchApps]");
        else if (inside && *text && *text != L';')
            code = start(text);
    }
    return code;
}
